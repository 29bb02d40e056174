// The Gin peer: `gin PORT` serves the typed JSON route and the order, bound and checked by Gin's own means.
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/gin-gonic/gin"
)

type userPath struct {
	ID int `uri:"id"`
}

type userQuery struct {
	Name *string `form:"name"`
}

type user struct {
	ID   int     `json:"id"`
	Name *string `json:"name"`
}

type item struct {
	SKU      string `json:"sku" binding:"required,max=20"`
	Name     string `json:"name" binding:"required"`
	Quantity int    `json:"quantity" binding:"min=1,max=1000"`
	Cents    int    `json:"cents" binding:"min=0"`
	Gift     bool   `json:"gift"`
}

type order struct {
	Customer string  `json:"customer" binding:"required"`
	Express  bool    `json:"express"`
	Note     *string `json:"note"`
	Items    []item  `json:"items" binding:"required,min=1,max=100,dive"`
}

type receipt struct {
	Customer string `json:"customer"`
	Items    int    `json:"items"`
	Cents    int    `json:"cents"`
}

func getUser(c *gin.Context) {
	var path userPath
	var query userQuery
	if err := c.ShouldBindUri(&path); err != nil {
		c.AbortWithStatusJSON(http.StatusUnprocessableEntity, gin.H{"error": err.Error()})
		return
	}
	if err := c.ShouldBindQuery(&query); err != nil {
		c.AbortWithStatusJSON(http.StatusUnprocessableEntity, gin.H{"error": err.Error()})
		return
	}
	c.JSON(http.StatusOK, user{ID: path.ID, Name: query.Name})
}

func addOrder(c *gin.Context) {
	var sent order
	if err := c.ShouldBindJSON(&sent); err != nil {
		c.AbortWithStatusJSON(http.StatusUnprocessableEntity, gin.H{"error": err.Error()})
		return
	}
	cents := 0
	for _, one := range sent.Items {
		cents += one.Quantity * one.Cents
	}
	c.JSON(http.StatusOK, receipt{Customer: sent.Customer, Items: len(sent.Items), Cents: cents})
}

func main() {
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.GET("/users/:id", getUser)
	router.POST("/orders", addOrder)
	log.Fatal(router.Run("127.0.0.1:" + os.Args[1]))
}
